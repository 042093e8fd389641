"""Messages between programs, by way of kvstore."""
