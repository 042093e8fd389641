"""Pages: who holds which, who finds whose, who gives up, where they go meanwhile. Numbers only, no tensor."""
