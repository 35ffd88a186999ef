"""What is served: resources, groups, snapshots, revisions. Pure: no I/O, no clock, no protobuf."""
