"""The chip on an FPGA: synthesis, and what it takes of a device."""
