"""What programs do outside of the sandbox, one module per capability. Nothing here holds up the loop of the fibers."""
