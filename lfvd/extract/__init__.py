"""Features from raw media (`pip install 'lfvd[features]'`): language by a text encoder, audio by openSMILE, visual by DenseNet-121."""
