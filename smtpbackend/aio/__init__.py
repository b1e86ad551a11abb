"""The twin for asyncio: it performs what the floors above decide."""
