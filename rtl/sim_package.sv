// What all memories share in simulation: the folder of their files, and the trace of writes.
//
// Arguments of the simulator:
//   +waterclock=<folder>        preload each memory from <folder>/<id>.bin, where that exists
//   +waterclock_trace           append every write to <folder>/writes.txt
//   +waterclock_period=<n>      length of a cycle in time units; 1 without it

`ifdef SIMULATION
/* verilator lint_off DECLFILENAME */
package waterclock_sim;
  string directory;
  int trace;  // descriptor of the trace file, 0 when nothing is traced
  longint period = 1;
  bit ready;

  // Reads the arguments, once; every memory calls this before anything else.
  function automatic void prepare();
    if (!ready) begin
      ready = 1;
      if (!$value$plusargs("waterclock=%s", directory)) directory = "";
      if (!$value$plusargs("waterclock_period=%d", period)) period = 1;
      if ($test$plusargs("waterclock_trace"))
        trace = $fopen({directory, "/writes.txt"}, "w");
    end
  endfunction
endpackage
`endif
