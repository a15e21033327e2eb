"""noiseda-diagnose: what the diffusion loss told the restoration network. See docs/diagnosis.md."""
from noiseda_model.diagnosis import main

if __name__ == '__main__':
    main()
