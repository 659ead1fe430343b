"""What an experiment leaves behind; read without ray."""
