"""What a run says about itself: progress, the console, the termination message, plots; secrets never with it."""
