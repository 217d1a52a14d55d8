"""Login: who somebody is, and the sessions that say so."""
