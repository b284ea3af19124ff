#!/usr/bin/env python3
from a.b import (c,
 d)
import x; import y
