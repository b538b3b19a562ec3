"""Using a trained model: model directories, translation, scores, averages."""
