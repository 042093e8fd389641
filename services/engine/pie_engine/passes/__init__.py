"""What goes to a device and what comes back: batches, masks, outputs, draws."""
