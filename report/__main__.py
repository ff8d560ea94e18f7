import sys

from report.page import main

sys.exit(main(sys.argv[1:]))
