"""Replicas that share an etcd: the lease by which they find each other, and the questions that they ask each other."""
