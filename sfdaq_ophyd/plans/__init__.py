"""Plans: generators that yield messages and touch nothing."""
