local actions = {}
local over = false
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    if (condition.type == "Complete" or condition.type == "Failed") and condition.status == "True" then
      over = true
    end
  end
end
local run = obj.spec.run or 1
if over and obj.status.run ~= nil and obj.status.run ~= run then
  -- The run that has ended is not the one that the spec asks for.
  over = false
end
local suspended = obj.spec.suspend == true
local cancelled = obj.spec.cancel == true

actions["suspend"] = {["disabled"] = over or suspended or cancelled}
actions["resume"] = {["disabled"] = over or not suspended or cancelled}
actions["cancel"] = {["disabled"] = over or cancelled}
actions["retry"] = {["disabled"] = not over}
return actions
