"""Why it went wrong: what is not finite, and what was compiled again."""
