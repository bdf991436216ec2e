"""Restoring pictures from what was observed of them: from a task and a method, by name, to posterior samples and files.

tasks: name -> operator A          inputs: pictures -> y, truth          methods: name -> how p(x | y) is sampled
posterior: samples of p(x | y), and their cost          results: residual, PSNR, SSIM; pictures; condition.json
"""
