"""Message types, fields only, grouped by the side that receives them."""
