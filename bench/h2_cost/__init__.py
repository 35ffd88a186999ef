"""What one delivery costs through this project's HTTP/2 and through the ``h2`` library: ``python -m bench.h2_cost``.

The server's side of a delivery, without sockets: one gRPC message goes out as a DATA frame to each of so many
connections with one stream, then the DATA frame of each client's ACK comes in, alone or followed by a WINDOW_UPDATE in
the same read. What xDS does with a message is left out. All take turns in every round:

- ``served``: as the server does it: frames are made once for all streams, reads that are known by their bytes are not
  taken apart;
- ``framed``: the same code without both: each frame is made and read for its own connection;
- ``h2``: the library, with the least around it that a gRPC server needs, and its checks of headers switched off.

Memory is what Python allocates for a connection with its one stream, and for each further stream (``tracemalloc``).
"""
