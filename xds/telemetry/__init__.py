"""What a server measures of itself: histograms of times, figures of processes; and traces."""
