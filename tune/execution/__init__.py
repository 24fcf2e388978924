"""Jobs on Ray: the cluster, the worker, retries. The only folder that knows Ray."""
