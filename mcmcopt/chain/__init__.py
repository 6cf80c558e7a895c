"""What a chain is made of, as small pure pieces: blocks, priors, moves, the accept test and adaptation."""
