"""A pool of many machines, whose jobd meet in etcd. Nothing here is loaded without ``--pool``."""
