"""What a result looks like: one document model and its renderers. Knows no kind of result."""
