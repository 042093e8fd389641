"""What a model's tokens mean beyond text: reasoning and tool calls, in the form its chat template gives them."""
