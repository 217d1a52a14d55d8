"""The decision: may this request pass, and who is asking."""
