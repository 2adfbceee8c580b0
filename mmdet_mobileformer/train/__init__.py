"""What tools/train.py and tools/test.py call: config to Runner, CPU and launcher, weights, errors."""
