"""python -m anomaly_vae."""

from anomaly_vae.cli import main

if __name__ == "__main__":
    main()
