"""Commands of `lfvd-tune` that run no session, and what all of its commands share."""
