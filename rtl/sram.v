// Single-port memory with a synchronous read: block RAM on an FPGA, a macro on silicon.
//
// rdata holds the word read last; it does not change with a write or while en is low.
//
// In simulation (SIMULATION defined) the memory starts as zeros and is preloaded at the first
// clock edge from the file <folder>/<id>.bin, if there is one: row after row from address 0, each
// row WIDTH rounded up to bytes, most significant byte first; the file may end early. Of a memory
// that is traced, each write adds a line: cycle, id, address (decimal), data (hexadecimal). See
// sim_package.sv for the arguments.

/* verilator lint_off DECLFILENAME */  // the emitted Verilog shares one name space
module waterclock_sram #(
    parameter WIDTH = 8,
`ifndef SIMULATION
    parameter INIT  = "",  // file for $readmemh: what an FPGA's memory holds at power-on
`endif
    parameter DEPTH = 16
) (
    input  wire                     clk,
    input  wire                     en,
    input  wire                     we,
    input  wire [$clog2(DEPTH)-1:0] addr,
    input  wire [        WIDTH-1:0] wdata,
    output reg  [        WIDTH-1:0] rdata,
    input  wire [             15:0] id      // names the instance; a constant
);

  (* ram_style = "block" *) reg [WIDTH-1:0] words[0:DEPTH-1];

`ifndef SIMULATION

  generate
    if (INIT != "") begin : filled
      initial $readmemh(INIT, words);
    end
  endgenerate

  always @(posedge clk)
    if (en) begin
      if (we) words[addr] <= wdata;
      else rdata <= words[addr];
    end

  wire unused = &{1'b0, id};

`else

  bit loaded, traced;
  int file;

  initial for (int row = 0; row < DEPTH; row++) words[row] = '0;

  // One test a cycle while nothing happens: a chip has hundreds of these memories. No function,
  // whose inlined variables had other names, and so other code, in each of them.
  always @(posedge clk)
    if (en || !loaded) begin
      if (!loaded) begin
        loaded = 1;
        traced = waterclock_sim::all;
        if (waterclock_sim::directory != "") begin
          file = $fopen($sformatf("%s/%0d.bin", waterclock_sim::directory, id), "rb");
          if (file != 0) begin
            void'($fread(words, file));
            $fclose(file);
          end
          file = $fopen($sformatf("%s/%0d.watch", waterclock_sim::directory, id), "r");
          if (file != 0) begin
            traced = waterclock_sim::trace != 0;
            $fclose(file);
          end
        end
      end
      if (en && we) begin
        words[addr] <= wdata;
        if (traced)
          $fwrite(waterclock_sim::trace, "%0d %0d %0d %h\n", $time / waterclock_sim::period, id,
                  addr, wdata);
      end else if (en) rdata <= words[addr];
    end

`endif

endmodule
