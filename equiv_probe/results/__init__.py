"""Results that several packages share: the report of an audit or a run, and the comparison of reports."""
