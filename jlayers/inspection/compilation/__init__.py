"""Why a jitted function was compiled again."""
