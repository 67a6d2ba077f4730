"""What every part of lamer shares: records, messages, codec, configuration, transport and keys."""
