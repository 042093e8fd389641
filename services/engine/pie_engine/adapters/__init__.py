"""LoRA adapters as the engine's books have them: names, versions, which tokens they compute."""
