"""The rendezvous of several daemons, over Redis or Redis Cluster."""
