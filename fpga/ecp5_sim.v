// Simulation models of the ECP5 cells for which yosys ships none, after the data sheet's words on
// block RAM and multipliers: as far as our netlists use them, and an error where they use more.

/* verilator lint_off DECLFILENAME */  // cells of a vendor, with the vendor's names

// A block RAM of 1,024 words of two 9-bit bytes, with two ports of 4, 9 or 18 bits, or one that
// writes and one that reads 36. Half bytes leave the ninth bits alone.
module DP16KD (
    input CLKA, CEA, OCEA, WEA, RSTA, CSA0, CSA1, CSA2,
    input ADA0, ADA1, ADA2, ADA3, ADA4, ADA5, ADA6, ADA7, ADA8, ADA9, ADA10, ADA11, ADA12, ADA13,
    input DIA0, DIA1, DIA2, DIA3, DIA4, DIA5, DIA6, DIA7, DIA8, DIA9, DIA10, DIA11, DIA12, DIA13,
    input DIA14, DIA15, DIA16, DIA17,
    output DOA0, DOA1, DOA2, DOA3, DOA4, DOA5, DOA6, DOA7, DOA8, DOA9, DOA10, DOA11, DOA12, DOA13,
    output DOA14, DOA15, DOA16, DOA17,
    input CLKB, CEB, OCEB, WEB, RSTB, CSB0, CSB1, CSB2,
    input ADB0, ADB1, ADB2, ADB3, ADB4, ADB5, ADB6, ADB7, ADB8, ADB9, ADB10, ADB11, ADB12, ADB13,
    input DIB0, DIB1, DIB2, DIB3, DIB4, DIB5, DIB6, DIB7, DIB8, DIB9, DIB10, DIB11, DIB12, DIB13,
    input DIB14, DIB15, DIB16, DIB17,
    output DOB0, DOB1, DOB2, DOB3, DOB4, DOB5, DOB6, DOB7, DOB8, DOB9, DOB10, DOB11, DOB12, DOB13,
    output DOB14, DOB15, DOB16, DOB17
);

  parameter integer DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG";
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "AUTO";
  parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", CLKAMUX = "CLKA", CLKBMUX = "CLKB";
  parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
  parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0;
  parameter [319:0] INITVAL_04 = 0, INITVAL_05 = 0, INITVAL_06 = 0, INITVAL_07 = 0;
  parameter [319:0] INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0;
  parameter [319:0] INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0;
  parameter [319:0] INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0;
  parameter [319:0] INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0;
  parameter [319:0] INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0;
  parameter [319:0] INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0;
  parameter [319:0] INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0;
  parameter [319:0] INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0;
  parameter [319:0] INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0;
  parameter [319:0] INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0;
  parameter [319:0] INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0;
  parameter [319:0] INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0, INITVAL_37 = 0;
  parameter [319:0] INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0;
  parameter [319:0] INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0;

  localparam [64 * 320 - 1:0] INITIAL = {
    INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C,
    INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
    INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34,
    INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
    INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C,
    INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
    INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24,
    INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
    INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C,
    INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
    INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14,
    INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
    INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C,
    INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
    INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04,
    INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00
  };

  reg [17:0] words[0:1023];
  initial for (int row = 0; row < 1024; row++) words[row] = INITIAL[row*20+:18];

  wire [13:0] ada = {
    ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0
  };
  wire [17:0] dia = {
    DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
    DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0
  };
  wire [17:0] doa;
  assign {
    DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
    DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0
  } = doa;
  wire [13:0] adb = {
    ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0
  };
  wire [17:0] dib = {
    DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
    DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0
  };
  wire [17:0] dob;
  assign {
    DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
    DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
  } = dob;

  // What a port has read is kept until it reads again. Halves are bytes of a word; a word of 36
  // bits is two words, the first lower.
  reg [35:0] reada = 0, readb = 0;
  wire [17:0] wa = words[ada[13:4]], wb = words[adb[13:4]];
  wire [35:0] both = {words[{adb[13:5], 1'b1}], words[{adb[13:5], 1'b0}]};

  // The lowest bit of a half byte.
  function automatic [4:0] half(input [1:0] number);
    half = (number[1] ? 5'd9 : 5'd0) + (number[0] ? 5'd4 : 5'd0);
  endfunction

  always @(posedge CLKA)
    if (CEA) begin
      if (DATA_WIDTH_A == 36) begin
        if (ada[0]) words[{ada[13:5], 1'b0}][8:0] <= dia[8:0];
        if (ada[1]) words[{ada[13:5], 1'b0}][17:9] <= dia[17:9];
        if (ada[2]) words[{ada[13:5], 1'b1}][8:0] <= dib[8:0];
        if (ada[3]) words[{ada[13:5], 1'b1}][17:9] <= dib[17:9];
      end else if (DATA_WIDTH_A == 18) begin
        if (WEA && ada[0]) words[ada[13:4]][8:0] <= dia[8:0];
        if (WEA && ada[1]) words[ada[13:4]][17:9] <= dia[17:9];
      end else if (DATA_WIDTH_A == 4) begin
        if (WEA) words[ada[13:4]][half(ada[3:2])+:4] <= dia[3:0];
      end else if (WEA) begin
        if (ada[3]) words[ada[13:4]][17:9] <= dia[8:0];
        else words[ada[13:4]][8:0] <= dia[8:0];
      end
      if (!WEA || WRITEMODE_A == "READBEFOREWRITE")
        reada <= {18'd0, DATA_WIDTH_A == 4 ? {14'd0, wa[half(ada[3:2])+:4]}
            : DATA_WIDTH_A == 9 ? {9'd0, ada[3] ? wa[17:9] : wa[8:0]} : wa};
    end

  always @(posedge CLKB)
    if (CEB) begin
      if (DATA_WIDTH_B == 18) begin
        if (WEB && adb[0]) words[adb[13:4]][8:0] <= dib[8:0];
        if (WEB && adb[1]) words[adb[13:4]][17:9] <= dib[17:9];
      end else if (DATA_WIDTH_B == 4) begin
        if (WEB) words[adb[13:4]][half(adb[3:2])+:4] <= dib[3:0];
      end else if (WEB) begin
        if (adb[3]) words[adb[13:4]][17:9] <= dib[8:0];
        else words[adb[13:4]][8:0] <= dib[8:0];
      end
      if (!WEB || WRITEMODE_B == "READBEFOREWRITE")
        readb <= DATA_WIDTH_B == 36 ? both
            : {18'd0, DATA_WIDTH_B == 4 ? {14'd0, wb[half(adb[3:2])+:4]}
            : DATA_WIDTH_B == 9 ? {9'd0, adb[3] ? wb[17:9] : wb[8:0]} : wb};
    end

  assign doa = DATA_WIDTH_B == 36 ? readb[17:0] : reada[17:0];
  assign dob = DATA_WIDTH_B == 36 ? readb[35:18] : readb[17:0];

  // What no netlist of ours has used so far.
  initial
    if (!(DATA_WIDTH_A inside {4, 9, 18, 36}) || !(DATA_WIDTH_B inside {4, 9, 18, 36})
        || REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
        || WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH")
      $fatal(1, "DP16KD: widths %0d and %0d, or a mode, without a model", DATA_WIDTH_A, DATA_WIDTH_B);
  always @(posedge CLKA) if (RSTA || CSA0 || CSA1 || CSA2) $fatal(1, "DP16KD: reset, port A");
  always @(posedge CLKB) if (RSTB || CSB0 || CSB1 || CSB2) $fatal(1, "DP16KD: reset, port B");
endmodule

// A multiplier of 18 by 18 bits, without registers.
module MULT18X18D (
    input A0, A1, A2, A3, A4, A5, A6, A7, A8,
    input A9, A10, A11, A12, A13, A14, A15, A16, A17,
    input B0, B1, B2, B3, B4, B5, B6, B7, B8,
    input B9, B10, B11, B12, B13, B14, B15, B16, B17,
    input C0, C1, C2, C3, C4, C5, C6, C7, C8,
    input C9, C10, C11, C12, C13, C14, C15, C16, C17,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    output P0, P1, P2, P3, P4, P5, P6, P7, P8,
    output P9, P10, P11, P12, P13, P14, P15, P16, P17,
    output P18, P19, P20, P21, P22, P23, P24, P25, P26,
    output P27, P28, P29, P30, P31, P32, P33, P34, P35
);

  wire [17:0] a = {
    A17, A16, A15, A14, A13, A12, A11, A10, A9,
    A8, A7, A6, A5, A4, A3, A2, A1, A0
  };
  wire [17:0] b = {
    B17, B16, B15, B14, B13, B12, B11, B10, B9,
    B8, B7, B6, B5, B4, B3, B2, B1, B0
  };
  // Each with its sign, or a zero before it; 36 bits of the product are the whole.
  wire signed [18:0] left = {SIGNEDA & a[17], a}, right = {SIGNEDB & b[17], b};
  wire signed [37:0] product = left * right;
  assign {
    P35, P34, P33, P32, P31, P30, P29, P28, P27,
    P26, P25, P24, P23, P22, P21, P20, P19, P18,
    P17, P16, P15, P14, P13, P12, P11, P10, P9,
    P8, P7, P6, P5, P4, P3, P2, P1, P0
  } = product[35:0];
  wire unused = &{1'b0, product[37:36], SOURCEA, SOURCEB, C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15, C16, C17};
endmodule
