"""HOW it is served: subscriptions, streams, ordering. Pure: no asyncio, no sockets, no clock; time is passed in."""
