-- The next run, from the start; what the last one left behind stays.
obj.spec.run = (obj.spec.run or 1) + 1
obj.spec.cancel = false
obj.spec.suspend = false
return obj
