"""What operators read: log lines, merged and escaped, and the events that are logged."""
