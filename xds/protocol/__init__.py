"""How resources are served: subscriptions, streams, ordering. Pure: no asyncio, sockets or clock; time is passed in."""
