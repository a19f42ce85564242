"""What one experiment draws, a file an experiment: imported when it is drawn, since matplotlib takes its time."""
