// What all memories share in simulation: the folder of their files, and the trace of writes.
//
// Arguments of the simulator:
//   +waterclock=<folder>        preload each memory from <folder>/<id>.bin, where that exists
//   +waterclock_trace           append every write to <folder>/writes.txt
//   +waterclock_watch           append those of each memory for which there is <folder>/<id>.watch
//   +waterclock_period=<n>      length of a cycle in time units; 1 without it

`ifdef SIMULATION
/* verilator lint_off DECLFILENAME */
package waterclock_sim;
  // Set before the first edge: what memories call in turn would be code of its own in each.
  string directory = find_directory();
  longint period = find_period();
  bit all = $test$plusargs("waterclock_trace") != 0;
  bit some = $test$plusargs("waterclock_watch") != 0;
  int trace = all || some ? $fopen({directory, "/writes.txt"}, "w") : 0;  // a descriptor

  function automatic string find_directory();
    if (!$value$plusargs("waterclock=%s", find_directory)) find_directory = "";
  endfunction

  function automatic longint find_period();
    if (!$value$plusargs("waterclock_period=%d", find_period)) find_period = 1;
  endfunction
endpackage
`endif
