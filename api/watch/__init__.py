"""What `tokenglass watch` shows: plain lines for pipes, a live picture for terminals."""
