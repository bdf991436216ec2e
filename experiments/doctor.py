from score_jax.lab import doctor

__doc__ = doctor.__doc__  # what --help shows

if __name__ == "__main__":
    doctor.examine()
