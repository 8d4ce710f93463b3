"""The loop, and what it says, keeps and proves."""
