"""The ZeroMQ client library of Pie, synchronous and asyncio."""
