"""Scoring many customers at once: the sequence model over shards of customers, into the warehouse's table `customer_risk_scores`.

`settings.py` what can be set; `rows.py` from tensors to rows, one vectorised function; `shard.py` one shard from the warehouse to a file;
`runs.py` the record of a run and how one is chosen; `runner.py` a run from its plan to its landing; `cluster.py` the same over Ray Data;
`jobs.py` runs asked for over HTTP.
"""
