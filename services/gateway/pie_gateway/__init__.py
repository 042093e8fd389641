"""The gateway: client sessions, the process table, event logs and the HTTP front."""
