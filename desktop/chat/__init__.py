"""The chat: transcript model and view, streaming markdown, composer, and the pane that joins them."""
