-- Send each new radiograph to CXR Inbox, but not the results that come back from there.
function OnStoredInstance(id, tags, metadata, origin)
  local kinds = { CR = true, DX = true }
  if kinds[tags['Modality']] and tags['Manufacturer'] ~= 'CXR Inbox' then
    RestApiPost('/modalities/cxr/store', DumpJson({ Resources = { id }, Synchronous = false }))
  end
end

-- Send again what could not be sent, for a day, each time that Orthanc's heart beats (LuaHeartBeatPeriod, Orthanc 1.11.1).
function OnHeartBeat()
  local yesterday = os.date('!%Y%m%dT%H%M%S', os.time() - 24 * 3600)
  for _, job in pairs(ParseJson(RestApiGet('/jobs?expand'))) do
    if job['Type'] == 'DicomModalityStore' and job['State'] == 'Failure' and job['CreationTime'] > yesterday
        and job['Content']['RemoteAet'] == 'CXR-INBOX' then
      RestApiPost('/jobs/' .. job['ID'] .. '/resubmit', '')
    end
  end
end
