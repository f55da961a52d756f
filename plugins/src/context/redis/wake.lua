-- Passes on the news that a session is free: whom it was for has gone.
wake()
