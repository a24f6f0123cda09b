"""What a run will cost, told before its first step. Imports training.data and what lies below training; of training,
only the trainer imports it."""
